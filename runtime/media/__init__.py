"""Every libav call: sources, sinks, child processes, timestamps, sound and colour."""
