"""From a teacher to sealed shards: plan, pilot, schedule, units, commit, manifest."""
