"""What every job needs: the ranks and their launcher, messages, the machine, the run folder, exit codes."""
