"""Benchmarks of engine sets, file jobs and live sessions, their report and their roofline."""
