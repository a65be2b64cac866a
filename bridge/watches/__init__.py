"""Registration of watches, and the notice of their changes to those who wait for it."""
