<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

/**
 * What checking made of a record as given: a row ready to be stored, or the reasons against it.
 */
class CheckedRecord
{
    /**
     * @var array<string, mixed> column => value as stored
     */
    public array $row = [];

    /**
     * @var array<int, array{field: string, reason: string}>
     */
    public array $errors = [];

    public function refuse(string $field, string $reason): void
    {
        $this->errors[] = ['field' => $field, 'reason' => $reason];
    }
}
