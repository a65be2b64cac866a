"""`amux-bridge demo`: the amux stand-in, a bridge and a receiver in one process."""
