CREATE TABLE attempts (
	seq INTEGER NOT NULL,
	delivery_id TEXT NOT NULL,
	started_at DOUBLE NOT NULL,
	duration_seconds DOUBLE NOT NULL,
	status_code INTEGER,
	error TEXT,
	body TEXT,
	PRIMARY KEY (seq)
);

CREATE INDEX ix_attempts_delivery ON attempts (delivery_id);

CREATE TABLE deliveries (
	id TEXT NOT NULL,
	watch_id TEXT NOT NULL,
	type TEXT NOT NULL,
	state TEXT NOT NULL,
	attempts INTEGER NOT NULL,
	round_attempts INTEGER NOT NULL,
	created_at DOUBLE NOT NULL,
	next_attempt_at DOUBLE,
	delivered_at DOUBLE,
	dead_at DOUBLE,
	error TEXT,
	PRIMARY KEY (id)
);

CREATE INDEX ix_deliveries_dead ON deliveries (dead_at) WHERE state = 'dead';

CREATE INDEX ix_deliveries_watch ON deliveries (watch_id);

CREATE TABLE events (
	watch_id TEXT NOT NULL,
	type TEXT NOT NULL,
	terminal BOOLEAN NOT NULL,
	created_at DOUBLE NOT NULL,
	payload BLOB NOT NULL,
	CONSTRAINT pk_events PRIMARY KEY (watch_id, type)
);

CREATE UNIQUE INDEX ux_events_terminal ON events (watch_id) WHERE terminal;

CREATE TABLE hosts (
	host TEXT NOT NULL,
	failures INTEGER NOT NULL,
	at DOUBLE NOT NULL,
	PRIMARY KEY (host)
);

CREATE TABLE idempotency (
	app TEXT NOT NULL,
	"key" TEXT NOT NULL,
	body BLOB NOT NULL,
	status INTEGER NOT NULL,
	watch_id TEXT NOT NULL,
	created_at DOUBLE NOT NULL,
	CONSTRAINT pk_idempotency PRIMARY KEY (app, "key")
);

CREATE INDEX ix_idempotency_created ON idempotency (created_at);

CREATE TABLE outbox (
	id TEXT NOT NULL,
	host TEXT NOT NULL,
	due_at DOUBLE NOT NULL,
	set_at DOUBLE NOT NULL,
	lease TEXT,
	holder TEXT,
	PRIMARY KEY (id)
);

CREATE INDEX ix_outbox_due ON outbox (due_at);

CREATE INDEX ix_outbox_holder ON outbox (holder) WHERE holder IS NOT NULL;

CREATE INDEX ix_outbox_host ON outbox (host, due_at);

CREATE TABLE replicas (
	id TEXT NOT NULL,
	epoch INTEGER NOT NULL,
	started_at DOUBLE NOT NULL,
	expires_at DOUBLE NOT NULL,
	owned_tasks INTEGER NOT NULL,
	probed INTEGER NOT NULL,
	PRIMARY KEY (id)
);

CREATE TABLE secrets (
	name TEXT NOT NULL,
	sealed BLOB NOT NULL,
	PRIMARY KEY (name)
);

CREATE TABLE tasks (
	id TEXT NOT NULL,
	"key" TEXT NOT NULL,
	task_id TEXT NOT NULL,
	credential TEXT NOT NULL,
	status TEXT NOT NULL,
	queued_at DOUBLE,
	in_progress_at DOUBLE,
	progress INTEGER,
	url TEXT,
	format TEXT,
	metadata TEXT,
	error TEXT,
	polls INTEGER NOT NULL,
	last_polled_at DOUBLE,
	next_poll_at DOUBLE,
	poll_error TEXT,
	owner TEXT,
	news BOOLEAN NOT NULL,
	wants_status BOOLEAN NOT NULL,
	opened_at DOUBLE NOT NULL,
	closed_at DOUBLE,
	PRIMARY KEY (id)
);

CREATE INDEX ix_tasks_news ON tasks (owner) WHERE news = 1;

CREATE INDEX ix_tasks_owner ON tasks (owner) WHERE closed_at IS NULL;

CREATE UNIQUE INDEX ux_tasks_open ON tasks ("key") WHERE closed_at IS NULL;

CREATE TABLE watches (
	id TEXT NOT NULL,
	app TEXT NOT NULL,
	task TEXT NOT NULL,
	task_id TEXT NOT NULL,
	callback_url TEXT NOT NULL,
	host TEXT NOT NULL,
	endpoint TEXT NOT NULL,
	events TEXT NOT NULL,
	context BLOB NOT NULL,
	options BLOB NOT NULL,
	state TEXT NOT NULL,
	outcome TEXT,
	created_at DOUBLE NOT NULL,
	deadline_at DOUBLE NOT NULL,
	timeout_seconds DOUBLE NOT NULL,
	ended_at DOUBLE,
	header_names TEXT NOT NULL,
	headers BLOB,
	secret BLOB,
	api_key BLOB,
	PRIMARY KEY (id)
);

CREATE INDEX ix_watches_app ON watches (app, id);

CREATE INDEX ix_watches_deadline ON watches (deadline_at) WHERE state = 'active';

CREATE INDEX ix_watches_ended ON watches (ended_at) WHERE ended_at IS NOT NULL;

CREATE INDEX ix_watches_outcome ON watches (outcome, id) WHERE outcome IS NOT NULL;

CREATE INDEX ix_watches_task ON watches (task);

CREATE INDEX ix_watches_task_id ON watches (task_id);

CREATE INDEX ix_watches_unsettled ON watches (state, id) WHERE state <> 'settled';

CREATE UNIQUE INDEX ux_watches_active ON watches (endpoint) WHERE state = 'active';
