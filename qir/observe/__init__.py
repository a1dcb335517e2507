"""What programs are run on, and what calibration makes of what it sees."""
