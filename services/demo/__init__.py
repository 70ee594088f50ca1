"""`farside demo`: a region is killed under real training, and the run goes on."""
