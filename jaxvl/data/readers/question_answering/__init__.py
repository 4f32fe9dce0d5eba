"""Questions about videos: one file a published format, compact tables of questions, answer vocabularies."""
