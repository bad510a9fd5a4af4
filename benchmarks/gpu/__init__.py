"""ON A GPU: everything that is to be known there, in one command of a quarter of an hour: `make gpu`."""
