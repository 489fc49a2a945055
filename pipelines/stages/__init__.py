"""One thin module a DVC stage: reads files, writes files, prints a summary."""
