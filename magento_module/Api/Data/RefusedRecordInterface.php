<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Api\Data;

/**
 * A record of a bulk call of which nothing was stored.
 *
 * @api
 */
interface RefusedRecordInterface
{
    /**
     * Its place in the call, counted from 0
     *
     * @return int
     */
    public function getPosition();

    /**
     * @param int $position
     * @return $this
     */
    public function setPosition($position);

    /**
     * Its id, if it named a readable one
     *
     * @return string|null
     */
    public function getRecordId();

    /**
     * @param string|null $recordId
     * @return $this
     */
    public function setRecordId($recordId);

    /**
     * Every fault found
     *
     * @return \Tocsin\BreachNotification\Api\Data\FieldErrorInterface[]
     */
    public function getErrors();

    /**
     * @param \Tocsin\BreachNotification\Api\Data\FieldErrorInterface[] $errors
     * @return $this
     */
    public function setErrors($errors);
}
