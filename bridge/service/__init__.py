"""The running service: it builds the parts from the settings, opens the sockets and handles signals."""
