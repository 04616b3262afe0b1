"""What tests of nodoubt and of programs that use it share. `servers` starts real databases in temporary folders."""
