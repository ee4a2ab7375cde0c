"""Types, errors, spans, statistics, boxes, files and facts about the machine."""
