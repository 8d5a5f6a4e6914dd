"""A campaign of faults over trainings and sweeps: what they leave must be what undisturbed ones leave."""
