"""What each kind of adapter costs to put in use and to run, measured."""
