"""Small asyncio tools that know nothing about watches: clocks, timeouts, batching, worker pools and retries."""
