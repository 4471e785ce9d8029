//! Clients that stop reading don't block other models.
