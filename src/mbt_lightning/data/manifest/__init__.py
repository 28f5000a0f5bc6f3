"""The table of clips that training reads: its formats, its checks and its rows in shared memory."""
