"""Who is who, and how one can tell: keys, signatures, the roster, and the signed documents of a job."""
