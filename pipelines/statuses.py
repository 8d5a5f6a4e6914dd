"""Exit statuses of the commands; 0 is done."""

FAILED, USAGE, INTERRUPTED = 1, 2, 130
