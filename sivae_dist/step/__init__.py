"""The parts of a training step besides networks and objective: schedule, draws, optimizer, guard, quarantine."""
