//! Requests with megabytes of stop strings harm nobody.
