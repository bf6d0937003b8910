"""Where rows are stored: one protocol, in SQLite or in Firestore."""
