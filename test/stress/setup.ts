// Stress tests load full-size models and repeat thousands of cycles.
jest.setTimeout(900_000);
