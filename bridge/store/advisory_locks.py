"""The numbers of the advisory locks that the bridge takes on PostgreSQL. Each kind of work has a number of its own.

No other program uses these numbers. Every version must use the same number for migrations.
"""

MIGRATION, EVENT_NUMBERING, EVENT_REMOVAL, CLASS_HISTORIES, NOTICES = range(7_351_882_046_311, 7_351_882_046_316)
