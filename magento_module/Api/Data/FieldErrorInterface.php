<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Api\Data;

/**
 * Why a field was refused.
 *
 * @api
 */
interface FieldErrorInterface
{
    /**
     * Name of the field, or of the record as a whole
     *
     * @return string
     */
    public function getField();

    /**
     * @param string $field
     * @return $this
     */
    public function setField($field);

    /**
     * What is wrong and what is expected
     *
     * @return string
     */
    public function getReason();

    /**
     * @param string $reason
     * @return $this
     */
    public function setReason($reason);
}
