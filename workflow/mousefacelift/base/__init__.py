"""What everything else stands on: errors, complete files, threads, progress, the web, tables."""
