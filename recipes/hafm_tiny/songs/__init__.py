"""Songs to train on: a singer, a band, and their rendering."""
