"""Exit statuses of the commands; 0 is done. A signal's is 128 and its number: 130 by Ctrl-C, 143 by SIGTERM."""

FAILED, USAGE, INTERRUPTED = 1, 2, 130
