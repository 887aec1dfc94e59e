"""What functions share with everything else in their process: its threads, its signals and its CPUs."""
