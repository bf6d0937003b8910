"""What tests share: real parts to run against, values to start from, and stand-ins for services of others."""
