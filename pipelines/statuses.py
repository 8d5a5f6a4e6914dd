"""Exit statuses of the commands; 0 is done."""

FAILED, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143
