"""The ground floor: types, errors, spans, statistics, files and facts about the machine."""
