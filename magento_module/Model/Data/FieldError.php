<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\Data;

use Magento\Framework\Api\AbstractSimpleObject;
use Tocsin\BreachNotification\Api\Data\FieldErrorInterface;

/**
 * @inheritDoc
 */
class FieldError extends AbstractSimpleObject implements FieldErrorInterface
{
    /**
     * @inheritDoc
     */
    public function getField()
    {
        return (string)$this->_get('field');
    }

    /**
     * @inheritDoc
     */
    public function setField($field)
    {
        return $this->setData('field', $field);
    }

    /**
     * @inheritDoc
     */
    public function getReason()
    {
        return (string)$this->_get('reason');
    }

    /**
     * @inheritDoc
     */
    public function setReason($reason)
    {
        return $this->setData('reason', $reason);
    }
}
