"""The rehearsal town: stand-ins for the world outside that speak its real protocols, on this machine only."""
