"""What a training step is made of beside networks and objective: schedule, draws, optimizer, guard, quarantine."""
