"""What defenses buy and what they cost: leakage against accuracy, on the same images."""
