"""`amux-bridge demo`: the stand-in for amux, the bridge and a receiver in one process."""
