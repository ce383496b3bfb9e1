"""What the sub-commands share: options, workspace, record, engine, and builders from paths to objects."""
