"""Reading and describing a region's log: records, their envelopes, their writers' schemas."""
