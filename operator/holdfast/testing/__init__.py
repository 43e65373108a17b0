"""What tests of agents and of stores can import."""
