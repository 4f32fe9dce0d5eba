"""The verbs of the command line and of the Python API, one file each."""
