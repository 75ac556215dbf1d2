"""The conductors: the only modules that know every room."""
