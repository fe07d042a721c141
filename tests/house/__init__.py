"""The code as a thing: names, rooms, documents, tools."""
