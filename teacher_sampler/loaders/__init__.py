"""Teachers from disk and from the network.  Importing the room registers every black box."""
