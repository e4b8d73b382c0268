"""The holder's node: it keeps records at home, decides what may be computed on them, and answers by dialling out."""
