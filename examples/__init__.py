"""Programs that use mpkernels as a user would."""
