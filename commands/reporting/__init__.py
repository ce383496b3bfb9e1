"""What gathers artefacts of a workspace for reports: calibration, measured sets, the demo's cells."""
