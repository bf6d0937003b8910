"""The ledger in Firestore."""
