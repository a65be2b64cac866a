"""Helpers around asyncio that know nothing of the bridge: time limits, worker pools, batching, clocks."""
