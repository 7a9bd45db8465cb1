"""Several systems side by side: a suite file -> runs -> tables and plots (`python -m edad_fast.compare`)."""
