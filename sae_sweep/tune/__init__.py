"""Running a sweep: plan, driver, and the executors that place its slots."""
